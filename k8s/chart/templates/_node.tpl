{{/* One Deployment for a pool of nodes. A pod that is replaced joins anew, with the pool's token.
     Argument: (list root pool). */}}
{{- define "strongroom.node" -}}
{{- $ := index . 0 -}}
{{- $pool := index . 1 -}}
{{- $name := printf "%s-node-%s" $.Release.Name $pool.name -}}
{{- $image := ternary "nodeGpu" "nodeCpu" (hasKey $pool "gpu") -}}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  namespace: {{ $.Release.Namespace }}
  labels:
    {{- include "strongroom.labels" (list $ "node") | nindent 4 }}
    strongroom.dev/pool: {{ $pool.name }}
spec:
  {{- if not (has $pool.name (include "strongroom.scaledPools" $ | fromYamlArray)) }}
  replicas: {{ $pool.replicas | default 1 }}
  {{- end }}
  revisionHistoryLimit: 5
  selector:
    matchLabels:
      {{- include "strongroom.selector" (list $ "node") | nindent 6 }}
      strongroom.dev/pool: {{ $pool.name }}
  strategy:
    # A GPU that is taken has no room for a second pod: one goes before one comes.
    rollingUpdate: {{ if $pool.gpu }}{maxUnavailable: 1, maxSurge: 0}{{ else }}{maxUnavailable: 0, maxSurge: 1}{{ end }}
  # From the first pull of the image to a Triton that answers.
  progressDeadlineSeconds: 1800
  template:
    metadata:
      labels:
        {{- include "strongroom.labels" (list $ "node") | nindent 8 }}
        strongroom.dev/pool: {{ $pool.name }}
      {{- with include "strongroom.nodeAnnotations" . | fromYaml }}
      annotations: {{ toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ $.Release.Name }}-node
      {{- include "strongroom.podSecurity" $ | nindent 6 }}
      {{- with $.Values.node.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      # Longer than the longest job and what comes after it: leases, loaders, Triton's own end.
      terminationGracePeriodSeconds: {{ ternary 25 $.Values.node.terminationGracePeriodSeconds (default false $pool.spot) }}
      {{- include "strongroom.spread" (list $ "node") | nindent 6 }}
      nodeSelector: {{ include "strongroom.nodeSelector" . | nindent 8 }}
      tolerations: {{ include "strongroom.nodeTolerations" $pool | nindent 8 }}
      {{- if eq $.Values.weights.mirror "gcsfuse" }}
      initContainers:
        # Runs beside the node for as long as the pod does: the bucket, over loopback.
        - name: mirror
          image: {{ include "strongroom.image" (list $ $image) }}
          imagePullPolicy: {{ $.Values.image.pullPolicy }}
          restartPolicy: Always
          command: [python3, -m, http.server, "8085", --bind, 127.0.0.1, --directory, /mnt/weights]
          {{- include "strongroom.containerSecurity" $ | nindent 10 }}
          startupProbe:
            exec:
              command: [python3, -c, "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8085/', timeout=5)"]
            periodSeconds: 5
            timeoutSeconds: 10
            failureThreshold: 24
          resources: {{ toYaml $.Values.weights.gcsfuse.resources | nindent 12 }}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            - {name: weights, mountPath: /mnt/weights, readOnly: true}
      {{- end }}
      containers:
        - name: node
          image: {{ include "strongroom.image" (list $ $image) }}
          imagePullPolicy: {{ $.Values.image.pullPolicy }}
          # SIGTERM makes the agent drain: no new jobs, those that run have their time, leases go
          # back. Gateways learn it from the site, so no hook has to wait before it.
          command: [tini, --, python3, -m, inference.node]
          {{- include "strongroom.containerSecurity" $ | nindent 10 }}
          env:
            {{- include "strongroom.nodeEnv" . | trim | nindent 12 }}
          ports:
            - {name: triton-http, containerPort: 18000}
            - {name: triton-grpc, containerPort: 18001}
            - {name: triton-metrics, containerPort: 18002}
            - {name: metrics, containerPort: 9103}
          {{- range $kind, $rest := dict "startupProbe" (dict "periodSeconds" 5 "failureThreshold" 120) "livenessProbe" (dict "periodSeconds" 30 "failureThreshold" 4) "readinessProbe" (dict "periodSeconds" 15 "failureThreshold" 2) }}
          {{ $kind }}:
            exec:
              command: [python3, -m, marketplace.core.probe, node]
            timeoutSeconds: 10
            periodSeconds: {{ $rest.periodSeconds }}
            failureThreshold: {{ $rest.failureThreshold }}
          {{- end }}
          resources: {{ include "strongroom.nodeResources" . | nindent 12 }}
          volumeMounts:
            {{- include "strongroom.nodeMounts" . | trim | nindent 12 }}
      volumes:
        {{- include "strongroom.nodeVolumes" . | trim | nindent 8 }}
{{ end -}}

{{- define "strongroom.nodeEnv" -}}
{{- $ := index . 0 -}}
{{- $pool := index . 1 -}}
{{- include "strongroom.commonEnv" $ }}
- name: STRONGROOM_NODE_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
# Triton listens where the gateways' calls arrive; the network policy lets nobody else come.
- name: STRONGROOM_NODE_TRITON_HOST
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- $plain := dict
  "STRONGROOM_NODE_POOL" $pool.name
  "STRONGROOM_NODE_DIR" "/var/lib/strongroom/node"
  "STRONGROOM_NODE_RUN_DIR" "/run/strongroom"
  "STRONGROOM_NODE_CACHE_DIR" "/var/cache/strongroom"
  "STRONGROOM_NODE_CACHE_BYTES" (include "strongroom.bytes" ($pool.cache | default $.Values.node.cache).size)
  "STRONGROOM_NODE_SLOTS" ($pool.slots | default 1)
  "STRONGROOM_NODE_DRAIN_S" (ternary 8 $.Values.node.drainSeconds (default false $pool.spot))
  "STRONGROOM_NODE_EVIDENCE" $.Values.node.evidence
  "STRONGROOM_NODE_METRICS_LISTEN" "0.0.0.0:9103"
  "STRONGROOM_NODE_PREFETCH" (ternary "on" "off" $.Values.weights.prefetch)
  "STRONGROOM_NODE_JOIN_TOKEN_FILE" "/etc/strongroom/join/STRONGROOM_NODE_JOIN_TOKEN"
  "STRONGROOM_WEB_URL" (printf "http://%s-web:8000" $.Release.Name)
  "STRONGROOM_GATEWAY_URL" (printf "http://%s-gateway:8001" $.Release.Name) -}}
{{- with $.Values.node.tritonDir -}}
{{- $_ := set $plain "STRONGROOM_NODE_TRITON_DIR" . -}}
{{- end -}}
{{- with include "strongroom.mirrorUrl" $ -}}
{{- $_ := set $plain "STRONGROOM_NODE_MIRROR_URL" . -}}
{{- end -}}
{{- include "strongroom.plainEnv" (merge dict ($pool.settings | default dict) $.Values.node.settings $plain) }}
{{- include "strongroom.keybrokerClientEnv" $ }}
{{- include "strongroom.secretEnv" (list $ "node") }}
{{- end -}}

{{- define "strongroom.nodeMounts" -}}
{{- $ := index . 0 -}}
{{- $pool := index . 1 -}}
{{ include "strongroom.mounts" (list $ "node" (list "keybroker-ca")) }}
- {name: identity, mountPath: /var/lib/strongroom/node}
- {name: run, mountPath: /run/strongroom}
- {name: cache, mountPath: /var/cache/strongroom}
- {name: shm, mountPath: /dev/shm}
- {name: join, mountPath: /etc/strongroom/join, readOnly: true}
{{- end -}}

{{- define "strongroom.nodeVolumes" -}}
{{- $ := index . 0 -}}
{{- $pool := index . 1 -}}
{{ include "strongroom.volumes" (list $ "node" (list "keybroker-ca")) }}
# The identity of a pod ends with it: the one that takes its place joins under its own name.
- name: identity
  emptyDir: {sizeLimit: 4Gi}
- name: run
  emptyDir: {sizeLimit: 16Mi}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ $pool.sharedMemory | default "1Gi" }}}
- name: join
  secret:
    secretName: {{ $pool.joinTokenSecret | default (printf "%s-node-%s" $.Release.Name $pool.name) }}
    defaultMode: 0440
    items:
      - {key: STRONGROOM_NODE_JOIN_TOKEN, path: STRONGROOM_NODE_JOIN_TOKEN}
{{- if eq $.Values.weights.mirror "gcsfuse" }}
- name: weights
  csi:
    driver: gcsfuse.csi.storage.gke.io
    readOnly: true
    volumeAttributes:
      bucketName: {{ $.Values.objectStore.bucket }}
      fileCacheCapacity: {{ $.Values.weights.gcsfuse.fileCacheSize }}
      fileCacheForRangeRead: "true"
      mountOptions: implicit-dirs,file-cache:enable-parallel-downloads:true
{{- end }}
{{- $cache := $pool.cache | default $.Values.node.cache }}
- name: cache
{{- if eq $cache.kind "emptyDir" }}
  emptyDir: {sizeLimit: {{ $cache.size }}}
{{- else if eq $cache.kind "ephemeral" }}
  ephemeral:
    volumeClaimTemplate:
      metadata:
        labels:
          {{- include "strongroom.selector" (list $ "node") | nindent 10 }}
          strongroom.dev/pool: {{ $pool.name }}
      spec:
        accessModes: [ReadWriteOnce]
        {{- with $cache.storageClass }}
        storageClassName: {{ . }}
        {{- end }}
        resources: {requests: {storage: {{ $cache.size }}}}
{{- else }}
  persistentVolumeClaim: {claimName: {{ $cache.claim }}}
{{- end }}
{{- end -}}

{{/* A quantity such as 20Gi as a number of bytes; a tenth is left for what is on its way. */}}
{{- define "strongroom.bytes" -}}
{{- $number := regexFind "^[0-9]+" . | int64 -}}
{{- $factor := get (dict "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776) (regexFind "[MGT]i$" .) | int64 -}}
{{- div (mul (mul $number $factor) 9) 10 -}}
{{- end -}}

{{/* Requests and limits of a node, its GPUs among them. Argument: (list root pool). */}}
{{- define "strongroom.nodeResources" -}}
{{- $pool := index . 1 -}}
{{- $resources := deepCopy ($pool.resources | default (index . 0).Values.node.resources) -}}
{{- with $pool.gpu -}}
{{- $resource := .resource | default "nvidia.com/gpu" -}}
{{- $_ := set $resources.requests $resource (.count | default 1) -}}
{{- $_ := set $resources.limits $resource (.count | default 1) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* Labels of the machines of a pool. Argument: (list root pool). */}}
{{- define "strongroom.nodeSelector" -}}
{{- $root := index . 0 -}}
{{- $pool := index . 1 -}}
{{- $labels := dict "kubernetes.io/arch" "amd64" -}}
{{- if eq $root.Values.platform "gke" -}}
{{- if $pool.gpu -}}
{{- $_ := set $labels "cloud.google.com/gke-accelerator" $pool.gpu.class -}}
{{- with $pool.gpu.migProfile -}}
{{- $_ := set $labels "cloud.google.com/gke-gpu-partition-size" . -}}
{{- end -}}
{{- with $pool.gpu.timeSlicing -}}
{{- $_ := set $labels "cloud.google.com/gke-gpu-sharing-strategy" "time-sharing" -}}
{{- $_ := set $labels "cloud.google.com/gke-max-shared-clients-per-gpu" (.clients | toString) -}}
{{- end -}}
{{- end -}}
{{- if $pool.spot -}}
{{- $_ := set $labels "cloud.google.com/gke-spot" "true" -}}
{{- end -}}
{{- else if $pool.gpu -}}
{{- $_ := set $labels "nvidia.com/gpu.product" $pool.gpu.class -}}
{{- end -}}
{{- toYaml (merge dict ($pool.nodeSelector | default dict) $labels) -}}
{{- end -}}

{{/* What the pods of a pool put up with: the taint of their pool, of GPUs, of spot machines. */}}
{{- define "strongroom.nodeTolerations" -}}
{{- $list := list (dict "key" "strongroom.dev/pool" "operator" "Equal" "value" .name "effect" "NoSchedule") -}}
{{- if .gpu -}}
{{- $list = append $list (dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule") -}}
{{- end -}}
{{- if .spot -}}
{{- $list = append $list (dict "key" "cloud.google.com/gke-spot" "operator" "Equal" "value" "true" "effect" "NoSchedule") -}}
{{- end -}}
{{- toYaml (concat $list (.tolerations | default list)) -}}
{{- end -}}

{{/* Where ciphertext is asked for first; empty: only the site has it. */}}
{{- define "strongroom.mirrorUrl" -}}
{{- if eq .Values.weights.mirror "gcsfuse" -}}
http://127.0.0.1:8085
{{- else if eq .Values.weights.mirror "dragonfly" -}}
{{ required "weights.dragonfly.url is needed" .Values.weights.dragonfly.url }}
{{- end -}}
{{- end -}}

{{/* The driver puts a container into the pod that mounts the bucket; its size is told here. */}}
{{- define "strongroom.nodeAnnotations" -}}
{{- $ := index . 0 -}}
{{- $annotations := dict -}}
{{- if eq $.Values.weights.mirror "gcsfuse" -}}
{{- $annotations = dict
  "gke-gcsfuse/volumes" "true"
  "gke-gcsfuse/cpu-request" "250m"
  "gke-gcsfuse/cpu-limit" "2"
  "gke-gcsfuse/memory-request" "256Mi"
  "gke-gcsfuse/memory-limit" "1Gi"
  "gke-gcsfuse/ephemeral-storage-request" $.Values.weights.gcsfuse.fileCacheSize
  "gke-gcsfuse/ephemeral-storage-limit" $.Values.weights.gcsfuse.fileCacheSize -}}
{{- end -}}
{{- toYaml (merge dict ((index . 1).podAnnotations | default dict) $annotations) -}}
{{- end -}}

{{/* Names of the pools whose size is somebody else's: those of `autoscaling.pools`, and the pools
     of spot machines beside them. */}}
{{- define "strongroom.scaledPools" -}}
{{- $names := list -}}
{{- if .Values.autoscaling.enabled -}}
{{- range .Values.autoscaling.pools | default list -}}
{{- $names = append $names .name -}}
{{- with .spot -}}
{{- $names = append $names .pool -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $names -}}
{{- end -}}

{{/* Whether the scaling of a component by the platform's own numbers is on: "true" or nothing.
     Argument: (list root component). */}}
{{- define "strongroom.isScaled" -}}
{{- $scaling := (index . 0).Values.autoscaling -}}
{{- if and $scaling.enabled ((index $scaling (index . 1) | default dict).enabled) -}}
true
{{- end -}}
{{- end -}}
