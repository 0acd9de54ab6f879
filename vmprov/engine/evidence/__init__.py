"""What machines leave to people: files, timelines, reports, and how long their like took before."""
