"""What is ours and belongs to nothing that is recorded: found, removed, or recorded again."""
