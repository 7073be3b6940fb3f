"""The optimizer: Muon for the matrices inside the layers, AdamW for the rest, in the groups that nanochat uses.

`groups.py` says which parameter is trained how, `muon.py` and `adamw.py` are the two update rules, `exchange.py` shares
the work out over the ranks, and `optimizer.py` holds all state in tensors named after the parameters, so that a
checkpoint needs no pickle.
"""
