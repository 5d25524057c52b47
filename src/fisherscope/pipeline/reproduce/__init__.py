"""The tables and figures of the paper, one experiment file and one runner each."""
