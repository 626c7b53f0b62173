"""These modules bring downloads and archives into the data sets' official folders."""
