"""A real Kubernetes on this machine, for the demo and the cluster tests.

No Docker and no container registry: the control plane is built from its Go modules, the one node is
containerd + runc from the distribution, and everything lives in namespaces of its own, so that one
kill ends it all. `python -m localcluster --help` is the way in; `localcluster.lifecycle` is the same for code.
"""
