"""Day 0: edge nodes that come up over the network, and an orchestrator that onboards them."""
