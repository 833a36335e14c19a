"""Files that are there whole or not at all: written aside, locked, hashed, and watched for changes."""
