"""Where jobs with models start: on nodes that hold them when that costs nobody anything, and which nodes to prepare."""
