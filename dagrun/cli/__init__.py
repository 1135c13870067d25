"""The command line: `dagrun demo`, `dagrun info`."""
