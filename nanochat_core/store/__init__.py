"""What steps leave behind: content by digest, manifests that say what made it, and names for people.

The only thing two stages of the pipeline share. `Store.open(url)` is the way in; a folder, `file://`, `memory://` and
`s3://` behave alike, and nothing outside this package knows which one it talks to.
"""

from nanochat_core.store.lease import Lease, LeaseHeldError, LeaseLostError
from nanochat_core.store.manifest import Artifact, FileEntry
from nanochat_core.store.names import Ref
from nanochat_core.store.partial import Partial
from nanochat_core.store.store import Store

__all__ = ["Artifact", "FileEntry", "Lease", "LeaseHeldError", "LeaseLostError", "Partial", "Ref", "Store"]
