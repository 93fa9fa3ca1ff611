"""One file per schema, numbered in a row: `0002_what_it_adds.py`. Each can go back."""
