"""Models: what they are, whether they fit, how they arrive and where they stay.

    gguf        reads a file's header, as untrusted input (header: what it holds)
    checks      whether that is a model, and several files are one
    plan        reckons the memory that a model takes, from its header
    fitting     what a file decides of its own configuration, and whether it fits here
    manifest    sizes, the SHA-256 of every chunk, facts: a static JSON file
    registry    the models that are known by name
    sources     what a URL, a file, a list of shards or a name stands for
    download    brings the files in: parallel ranges, verified, resumable (journal, progress)
    store       the installed models: add, list, open, verify, repair, remove
                (installation, installed, verification, reports: its parts)
    split       shards, both ways
    pairing     whether a projector or an adapter belongs to a model

Nothing is imported here: a program that loads one model from a URL needs none of the store, and starts sooner.
"""
