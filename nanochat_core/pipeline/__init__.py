"""The steps of a run: what each one reads, makes and depends on, and how one is run or found in the store.

Stages (corpora, training, evaluation ...) never import each other; here is where they meet, and the store is all they
share. `steps.py` has one function per step with the signature that flows and tasks use.
"""
