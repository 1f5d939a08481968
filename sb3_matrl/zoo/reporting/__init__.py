"""Reports of runs: read the folders, lay out the charts, fill in the page."""
