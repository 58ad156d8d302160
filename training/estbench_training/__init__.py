"""estbench_training: from a base model to a release, by one recipe.

    estbench train recipe=training/recipes/demo.yaml           # runs what is not done yet
    estbench train recipe=llammas.yaml plan=true    # tokens, FLOPs, memory, hours, before anything starts

A recipe is a chain of stages (`recipe`); `stages` runs them by the hash of all that goes into each. `prepare` makes
token shards, `mixture` and `packing` what a training step sees, `cpt` trains on it; `instructions` makes rows for
`sft`, `pairs` those for `dpo`; `evaluation` measures on the way, `card` says how a checkpoint came to be.
"""
