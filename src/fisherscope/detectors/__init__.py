"""One file a detector: numpy in, score out; higher is more novel."""
