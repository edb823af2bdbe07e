"""Names and addresses of the cluster: fixed, so that every run and every test sees the same ones.

The control plane listens in a network namespace of its own, so no port of the machine is taken; only one end
of a veth pair and three routes are visible outside. A second cluster beside the first, in a LOCALCLUSTER_DIR
of its own, needs networks of its own: that is what LOCALCLUSTER_NUMBER is for.
"""

import os

NUMBER = int(os.environ.get("LOCALCLUSTER_NUMBER") or 0)
if not 0 <= NUMBER <= 9:
    raise SystemExit(f"LOCALCLUSTER_NUMBER is {NUMBER}; it must be 0 to 9.")

NODE = "finetune-node"
HOST_LINK, NODE_LINK = f"ftlocal{NUMBER}-host", f"ftlocal{NUMBER}-node"  # at most 15 characters each
LINK_NETWORK = f"10.123.{NUMBER}.0/30"
HOST_IP, NODE_IP = f"10.123.{NUMBER}.1", f"10.123.{NUMBER}.2"
POD_NETWORK = f"10.244.{NUMBER}.0/24"
SERVICE_NETWORK = f"10.{96 + NUMBER}.0.0/16"
API_SERVICE_IP = f"10.{96 + NUMBER}.0.1"  # the first address of SERVICE_NETWORK, always the API server's
API_PORT = 6443
CGROUP = f"finetune-localcluster-{NUMBER}"  # every pod's cgroup lies below this one
PAUSE_IMAGE = "finetune.local/pause:1"
BUCKETS = ("models", "datasets", "adapters")
REGION = "us-east-1"
