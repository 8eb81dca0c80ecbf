{{/* What is asked of Prometheus about one version of a component: the pods of a version have its
     hash in their names. Argument of each: (dict "component" "window" "release" "version"), where
     version is `canary` or `stable`; the hash comes in when the analysis is started. */}}
{{- define "strongroom.rollouts.pods" -}}
pod=~"{{ .release }}-{{ .component }}-{{ printf "{{args.%s-hash}}" .version }}-.+"
{{- end -}}

{{- define "strongroom.rollouts.requests" -}}
{{- $name := dict "web" "strongroom_web_requests_total" "gateway" "strongroom_gateway_requests_total" -}}
{{ get $name .component }}{ {{- include "strongroom.rollouts.pods" . -}} }
{{- end -}}

{{- define "strongroom.rollouts.failures" -}}
{{- $name := dict "web" "strongroom_web_requests_total" "gateway" "strongroom_gateway_requests_total" -}}
{{- $failed := dict "web" `status=~"5.."` "gateway" `outcome="server_error"` -}}
{{ get $name .component }}{ {{- include "strongroom.rollouts.pods" . }},{{ get $failed .component -}} }
{{- end -}}

{{/* Requests in the window. */}}
{{- define "strongroom.rollouts.count" -}}
sum(increase({{ include "strongroom.rollouts.requests" . }}[{{ .window }}s]))
{{- end -}}

{{/* Share of requests that failed. Before the first failure there is no series of failures: 0. */}}
{{- define "strongroom.rollouts.errorShare" -}}
((sum(rate({{ include "strongroom.rollouts.failures" . }}[{{ .window }}s])) or 0 * sum(rate({{ include "strongroom.rollouts.requests" . }}[{{ .window }}s]))) / sum(rate({{ include "strongroom.rollouts.requests" . }}[{{ .window }}s])))
{{- end -}}

{{/* Seconds within which 95 of 100 requests were answered. */}}
{{- define "strongroom.rollouts.latency" -}}
{{- $name := dict "web" "strongroom_web_request_duration_seconds_bucket" "gateway" "strongroom_gateway_request_seconds_bucket" -}}
histogram_quantile(0.95, sum by (le) (rate({{ get $name .component }}{ {{- include "strongroom.rollouts.pods" . -}} }[{{ .window }}s])))
{{- end -}}

{{/* How often one metric is measured, and what becomes of it. */}}
{{- define "strongroom.rollouts.limits" -}}
interval: {{ .intervalSeconds }}s
# The pods of the first step have to be there, and to have been scraped over a window.
initialDelay: {{ .windowSeconds }}s
failureLimit: {{ .failureLimit }}
inconclusiveLimit: {{ .inconclusiveLimit }}
consecutiveErrorLimit: {{ .consecutiveErrorLimit }}
{{- end -}}
