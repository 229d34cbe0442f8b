"""Release folders: layout, checksums, certificate, model card."""
