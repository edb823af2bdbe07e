//go:build tools

// Package simulation names the main package that localcluster builds, so that go.mod and go.sum pin it.
package simulation

import _ "sigs.k8s.io/kwok/cmd/kwok"
