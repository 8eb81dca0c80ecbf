{{/* Nodes that a kind of nodes should have, with fractions. Argument: names of pools, with | between.

     What waits in the queue is told by every gateway alike, so the largest counts; of requests each
     gateway tells its own, so they are added up. A pool of which nothing is said has no load, as long
     as some gateway says anything; if none does there is no answer at all, which KEDA takes for a
     failure and not for 0. */}}
{{- define "strongroom.scaling.demand" -}}
{{- $none := `0 * max(strongroom_pool_demand_nodes{part="queue"})` -}}
((max(sum without (pool) (strongroom_pool_demand_nodes{part="queue",pool=~"{{ . }}"})) or {{ $none }})
 + (sum(strongroom_pool_demand_nodes{part="requests",pool=~"{{ . }}"}) or {{ $none }}))
{{- end -}}

{{/* Nodes of one pool that answer. Argument: its name. */}}
{{- define "strongroom.scaling.ready" -}}
(max(strongroom_pool_ready_nodes{pool="{{ . }}"}) or 0 * max(strongroom_pool_demand_nodes{part="queue"}))
{{- end -}}

{{/* Both names of a pool that has spot nodes besides. Argument: the pool of `autoscaling`. */}}
{{- define "strongroom.scaling.names" -}}
{{ .name }}{{ with .spot }}|{{ .pool }}{{ end }}
{{- end -}}

{{/* Spot nodes to order: all but those that are never spot. Argument: the pool. */}}
{{- define "strongroom.scaling.spot" -}}
{{- $demand := include "strongroom.scaling.demand" (include "strongroom.scaling.names" .) -}}
clamp_min(ceil({{ $demand }}) - {{ .spot.onDemandMin | default 0 }}, 0)
{{- end -}}

{{/* Spot nodes that are wanted and not there. Argument: the pool. */}}
{{- define "strongroom.scaling.missing" -}}
({{ include "strongroom.scaling.spot" . }} - {{ include "strongroom.scaling.ready" .spot.pool }})
{{- end -}}

{{/* Nodes that are not spot, as `split_nodes` of inference/core/scaling.py has them: those that are
     never spot; and, for spot nodes that were missing all the time that they are waited for, or that
     were there within it and are gone, as many others. Argument: (list pool step). */}}
{{- define "strongroom.scaling.onDemand" -}}
{{- $pool := index . 0 -}}
{{- $window := printf "[%vs:%vs]" (int $pool.spot.patienceSeconds) (int (index . 1)) -}}
{{- $least := $pool.spot.onDemandMin | default 0 -}}
{{- $demand := include "strongroom.scaling.demand" (include "strongroom.scaling.names" $pool) -}}
{{- $ready := include "strongroom.scaling.ready" $pool.spot.pool -}}
{{- $missing := include "strongroom.scaling.missing" $pool -}}
{{- $late := printf "min_over_time(%s%s)" $missing $window -}}
{{- $gone := printf "(max_over_time(%s%s) - %s)" $ready $window $ready -}}
{{- $lost := printf "((%s < %s) or %s)" $missing $gone $gone -}}
clamp_max(ceil({{ $demand }}), {{ $least }})
 + clamp_min((({{ $late }} > {{ $lost }}) or {{ $lost }}), 0)
{{- end -}}

{{/* So long less must be wanted before nodes are given back: `Bounds.scale_down_s`. */}}
{{- define "strongroom.scaling.window" -}}
{{ max 300 (int .coldStartSeconds) }}
{{- end -}}

{{- define "strongroom.scaling.labels" -}}
app.kubernetes.io/name: strongroom
app.kubernetes.io/instance: {{ index . 0 }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* A trigger that asks Prometheus. Argument: (dict root query threshold). */}}
{{- define "strongroom.scaling.trigger" -}}
{{- $prometheus := .root.Values.autoscaling.prometheus -}}
- type: prometheus
  metricType: AverageValue
  metadata:
    serverAddress: {{ required "autoscaling.prometheus.serverAddress must be set" $prometheus.serverAddress | quote }}
    query: |
      {{- .query | nindent 6 }}
    threshold: {{ .threshold | quote }}
    activationThreshold: "0"
    ignoreNullValues: "false"
    {{- with $prometheus.authMode }}
    authModes: {{ . | quote }}
    {{- end }}
  {{- if $prometheus.authMode }}
  authenticationRef:
    name: {{ .root.Release.Name }}-prometheus
  {{- end }}
{{- end -}}

{{/* The scaled object of one pool of nodes. Argument: (dict root name query min max window). */}}
{{- define "strongroom.scaling.pool" -}}
{{- $autoscaling := .root.Values.autoscaling -}}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {{ .root.Release.Name }}-node-{{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "strongroom.scaling.labels" (list .root.Release.Name "node") | nindent 4 }}
    strongroom.dev/pool: {{ .name }}
spec:
  scaleTargetRef:
    name: {{ .root.Release.Name }}-node-{{ .name }}
  pollingInterval: {{ $autoscaling.pollingIntervalSeconds }}
  # From the last load to none, for the last node; the others are kept by the window below.
  cooldownPeriod: {{ .window }}
  minReplicaCount: {{ .min }}
  maxReplicaCount: {{ .max }}
  fallback:
    failureThreshold: {{ $autoscaling.fallback.failureThreshold }}
    replicas: {{ min (int $autoscaling.fallback.replicas) (int .max) }}
    {{- with $autoscaling.fallback.behavior }}
    behavior: {{ . }}
    {{- end }}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        scaleUp:
          stabilizationWindowSeconds: 0
          policies:
            - {type: Pods, value: {{ .max }}, periodSeconds: 15}
        scaleDown:
          stabilizationWindowSeconds: {{ .window }}
          policies:
            - {type: Percent, value: 100, periodSeconds: 15}
  triggers:
    {{- include "strongroom.scaling.trigger" (dict "root" .root "query" .query "threshold" "1") | nindent 4 }}
{{- end -}}
