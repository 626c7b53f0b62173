"""Archives and downloads into the data sets' official folders."""
