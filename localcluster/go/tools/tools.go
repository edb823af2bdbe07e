//go:build tools

// Package tools names the main packages that localcluster builds, so that go.mod and go.sum pin them.
package tools

import (
	_ "github.com/versity/versitygw/cmd/versitygw"
	_ "helm.sh/helm/v4/cmd/helm"
)
