{{/* Name of everything in this release: the release's own where it says what it is, else both. */}}
{{- define "finetune.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "finetune.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "finetune.labels" -}}
{{ include "finetune.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "finetune.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "finetune.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{/* An image: repository, then digest or tag. Takes (dict "image" ... "default" tag). */}}
{{- define "finetune.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .default) -}}
{{- end -}}
{{- end -}}

{{/* What the operator may do: all of it, and nothing else. No Secrets, no wildcards. */}}
{{- define "finetune.rules" -}}
- apiGroups: [finetune.dev]
  resources: [finetunejobs]
  verbs: [get, list, watch, delete] # delete: ttlSecondsAfterFinished
- apiGroups: [finetune.dev]
  resources: [finetunejobs/status]
  verbs: [get, patch]
- apiGroups: [finetune.dev]
  resources: [finetunejobs/finalizers]
  verbs: [update] # owner references that block deletion, where the API server checks them
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete] # patch: suspend, and nothing else; delete: what waits in a queue
- apiGroups: [""]
  resources: [services]
  verbs: [get, create] # names for pods that train together; get: whose it is that is there already
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [events]
  verbs: [list, create, patch] # list: why the Job controller could not make a pod
{{- end -}}

{{/* CEL: the value v is none of a list whose entries are whole values, or beginnings that end in *. Empty allows all. */}}
{{- define "finetune.foreign" -}}
variables.{{ . }} != [] && !variables.{{ . }}.exists(e, e == v || (e.endsWith('*') && v.startsWith(e.substring(0, size(e) - 1))))
{{- end -}}
