"""What everything shares: settings, the command line, the catalogue, the data set on disk, processes, files, progress."""
