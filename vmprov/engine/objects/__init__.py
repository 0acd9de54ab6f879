"""What machines have on a host, each thing recorded before it is made, and removed by what is recorded."""
