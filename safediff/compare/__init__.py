"""The comparison of systems on one policy: which rows, what each row holds, how it is shown."""
