"""Taking a model away: folders that other programs read, and reading other people's tokenizers."""
