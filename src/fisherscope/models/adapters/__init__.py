"""Models that users already have, behind the library's contract; each module needs its own extra."""
