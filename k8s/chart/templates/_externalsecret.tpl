{{/* One Secret out of one remote secret: a JSON object whose members are named as the variables.
     Argument: (dict root component name remote keys suffix). */}}
{{- define "strongroom.externalSecret" -}}
{{- $external := .root.Values.externalSecrets -}}
---
apiVersion: external-secrets.io/v1
kind: ExternalSecret
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "strongroom.labels" (list .root .component) | nindent 4 }}
  {{- if has .component (list "migrate" "bucket") }}
  annotations:
    {{- include "strongroom.hook" -10 | nindent 4 }}
  {{- end }}
spec:
  refreshInterval: {{ $external.refreshInterval }}
  secretStoreRef:
    kind: {{ $external.store.kind }}
    name: {{ required "externalSecrets.store.name is needed" $external.store.name }}
  target:
    name: {{ .name }}
    creationPolicy: Owner
    deletionPolicy: Retain
  data:
    {{- $remote := printf "%s%s" $external.prefix .remote }}
    {{- range .keys }}
    - secretKey: {{ . }}
      remoteRef: {key: {{ $remote }}, property: {{ . }}{{ $.suffix }}}
    {{- end }}
{{- end -}}
