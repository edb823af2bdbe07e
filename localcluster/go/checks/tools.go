//go:build tools

// Package checks names the main package that localcluster builds, so that go.mod and go.sum pin it.
package checks

import _ "github.com/prometheus/prometheus/cmd/promtool"
