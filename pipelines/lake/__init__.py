"""What all flows share about published data: state, files, publishing, workspace, clock, lock."""
