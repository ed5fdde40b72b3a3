"""The HTTP side: pages for people and scripts, and the administration API in ATOM."""
