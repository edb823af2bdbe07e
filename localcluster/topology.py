"""Names and addresses of the cluster: fixed, so that every run and every test sees the same ones.

One such cluster fits on a machine. Its control plane listens in a network namespace of its own, so no
port of the machine is taken; only the two ends of one veth pair and three routes are visible outside.
"""

NODE = "finetune-node"
HOST_LINK, NODE_LINK = "ftlocal-host", "ftlocal-node"  # at most 15 characters each
HOST_IP, NODE_IP = "10.123.0.1", "10.123.0.2"
LINK_NETWORK = "10.123.0.0/30"
POD_NETWORK = "10.244.0.0/24"
SERVICE_NETWORK = "10.96.0.0/16"
API_SERVICE_IP = "10.96.0.1"  # the first address of SERVICE_NETWORK, always the API server's
API_PORT = 6443
CGROUP = "finetune-localcluster"  # every pod's cgroup lies below this one
PAUSE_IMAGE = "finetune.local/pause:1"
BUCKETS = ("models", "datasets", "adapters")
REGION = "us-east-1"
