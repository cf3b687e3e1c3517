"""One script per method: does its claim hold at small scale, and by what margin."""
