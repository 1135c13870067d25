"""The command line: `dagrun demo`, `train`, `graph`, `profile`, `scale`, `info`."""
