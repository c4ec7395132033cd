"""What the benchmark can measure, a file a section."""
