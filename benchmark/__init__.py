"""What a user runs: command line, specs, datasets, backbones, the runner and its result records."""
