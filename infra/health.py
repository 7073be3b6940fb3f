"""Ends with 0 where the given address answers with a success: the health check of the images, which have no curl."""

import sys
import urllib.error
import urllib.request

try:
    urllib.request.urlopen(sys.argv[1], timeout=8).close()
except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
    sys.exit(f"{sys.argv[1]}: {error}")
