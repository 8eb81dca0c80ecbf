{{- define "strongroom.components" -}}
{{- $components := list "web" "gateway" "worker" "beat" "keybroker" "node" "migrate" -}}
{{- if and .Values.objectStore.bucket .Values.objectStore.makeBucket -}}
{{- $components = append $components "bucket" -}}
{{- end -}}
{{- toYaml $components -}}
{{- end -}}

{{/* Who may speak to whom: the one list that both sides' policies are made of.
     docs/kubernetes.md draws it; tests compare. */}}
{{- define "strongroom.edges" -}}
{{- $net := .Values.network -}}
- {from: ingress, to: web, ports: [8000]}
- {from: ingress, to: gateway, ports: [8001, 8002]}
- {from: gateway, to: node, ports: [18000, 18001]}
- {from: gateway, to: web, ports: [8000]}
- {from: node, to: web, ports: [8000]}
- {from: node, to: gateway, ports: [8001]}
- {from: node, to: keybroker, ports: [8443]}
- {from: web, to: keybroker, ports: [8443]}
- {from: worker, to: keybroker, ports: [8443]}
- {from: worker, to: gateway, ports: [8001]}
{{- range list "web" "worker" "beat" "gateway" "keybroker" "migrate" }}
- {from: {{ . }}, to: postgres, ports: [{{ $net.postgres.port }}]}
{{- end }}
{{- range list "web" "worker" "beat" "gateway" }}
- {from: {{ . }}, to: redis, ports: [{{ $net.redis.port }}]}
{{- end }}
{{- range list "web" "worker" }}
- {from: {{ . }}, to: internet, ports: [443]}
- {from: {{ . }}, to: mail, ports: [{{ $.Values.mail.port }}]}
{{- if $.Values.objectStore.bucket }}
- {from: {{ . }}, to: objectStore, ports: [{{ $net.objectStore.port }}]}
{{- end }}
{{- end }}
{{- if and .Values.objectStore.bucket .Values.objectStore.makeBucket }}
- {from: bucket, to: objectStore, ports: [{{ $net.objectStore.port }}]}
{{- end }}
{{- if ne .Values.keybroker.kms.kind "local" }}
- {from: keybroker, to: keyStore, ports: [{{ $net.keyStore.port }}]}
{{- end }}
{{- if eq .Values.weights.mirror "dragonfly" }}
- {from: node, to: mirror, ports: [{{ $net.mirror.port }}]}
{{- else if eq .Values.weights.mirror "gcsfuse" }}
- {from: node, to: objectStore, ports: [{{ $net.objectStore.port }}]}
- {from: node, to: metadata, ports: [80, 988]}
{{- end }}
{{- if .Values.monitoring.otlpEndpoint }}
- {from: gateway, to: collector, ports: [{{ $net.collector.port }}]}
{{- end }}
{{- if .Values.monitoring.enabled }}
- {from: prometheus, to: web, ports: [8000]}
- {from: prometheus, to: gateway, ports: [8001]}
- {from: prometheus, to: worker, ports: [9101]}
- {from: prometheus, to: beat, ports: [9102]}
- {from: prometheus, to: node, ports: [9103, 18002]}
- {from: prometheus, to: keybroker, ports: [9104]}
{{- end }}
{{- range include "strongroom.components" . | fromYamlArray }}
- {from: {{ . }}, to: dns, ports: [53]}
{{- end }}
{{- end -}}

{{/* Peers of a policy: a component of ours, or what the values say of the world outside.
     An empty list would mean everybody, so it is refused. Argument: (list root name). */}}
{{- define "strongroom.peers" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- if has $name (include "strongroom.components" $root | fromYamlArray) -}}
- podSelector:
    matchLabels:
      {{- include "strongroom.selector" (list $root $name) | nindent 6 }}
{{- else -}}
{{- $peers := (index $root.Values.network $name | default dict).peers -}}
{{- if not $peers -}}
{{- fail (printf "network.%s.peers must name at least one peer" $name) -}}
{{- end -}}
{{- toYaml $peers -}}
{{- end -}}
{{- end -}}

{{- define "strongroom.edgePorts" -}}
{{- $edge := . -}}
{{- range $port := $edge.ports }}
- {port: {{ $port }}, protocol: TCP}
{{- if eq $edge.to "dns" }}
- {port: {{ $port }}, protocol: UDP}
{{- end }}
{{- end }}
{{- end -}}
