"""The folder of a buffer on disk: files, schema, cursor, lock."""
