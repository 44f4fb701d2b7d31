"""The only home of boto3: everything that is said to the object store is said here."""
