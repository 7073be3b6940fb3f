"""The steps of the pipeline, a file for each: what decides its result, what it reads, what makes it, how it is told.

The names mean the same in every file: `settings` (what is in the key), `body`, `checks`, `job` of a training, and
`title`, `headline` and `notes` for people. Stages (corpora, training, evaluation ...) never import each other; here is
where they meet, and the store is all they share. Imports of theirs are inside the functions: a run that finds
everything in the store then loads neither torch nor Arrow. CONTRIBUTING.md adds a step.
"""
