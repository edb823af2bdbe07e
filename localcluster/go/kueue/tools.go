//go:build tools

// Package kueue names the main package that localcluster builds, so that go.mod and go.sum pin it.
package kueue

import _ "sigs.k8s.io/kueue/cmd/kueue"
