"""Is test data in a corpus? A corpus is streamed once against the documents of tasks.

text.py     normalised text and hashes of its parts     corpus.py   JSONL, plain text and Parquet as chunks
items.py    what a task's documents show and answer     scan.py     chunks over processes, finds put together
index.py    exact, 8 words, 50 characters               report.py   by task: items, share, coverage, examples;
near.py     near-duplicates (a slower pass)                         a run's scores on clean and dirty documents

tests = items.collect(cards, data_dir)
found = scan.scan("corpus/", tests, near=True)
report.by_task(tests, found)
"""
