"""Text in, batches out: corpora, token shards, packed rows, conversations."""
