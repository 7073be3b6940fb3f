"""How fast things are: the benches of `nanochat bench`, and programs of their own with figures in RESULTS.md."""
