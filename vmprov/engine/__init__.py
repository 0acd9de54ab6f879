"""Orchestration: creating, judging and removing VMs, each step recorded before it is taken.

Knows neither libvirt nor Docker nor Vagrant; it binds hosts, drivers, networks, images and the store.
"""
