"""Speed and memory against peers; each module writes results/NAME.json."""
