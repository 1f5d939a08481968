"""Reports on runs: read the run folders, draw the charts, fill in the page."""
