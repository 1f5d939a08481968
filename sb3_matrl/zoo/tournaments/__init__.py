"""Cross-play and exploitability on the command line: who plays, in which processes, and what is written."""
