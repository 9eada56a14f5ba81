"""Report pages, plots and tables of results."""
