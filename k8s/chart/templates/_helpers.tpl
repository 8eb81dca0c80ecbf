{{/* Labels that select the pods of one component. Argument: (list root component). */}}
{{- define "strongroom.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: strongroom
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* All labels of one component's objects. Argument: (list root component). */}}
{{- define "strongroom.labels" -}}
{{- $root := index . 0 -}}
{{ include "strongroom.selector" . }}
app.kubernetes.io/version: {{ $root.Values.image.tag | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end -}}

{{/* Reference of an image. Argument: (list root name), where name is a key of image.names. */}}
{{- define "strongroom.image" -}}
{{- $root := index . 0 -}}
{{- $image := $root.Values.image -}}
{{- $name := index $image.names (index . 1) -}}
{{- $digest := index ($image.digests | default dict) (index . 1) -}}
{{- with $image.registry }}{{ . | trimSuffix "/" }}/{{ end -}}
{{ $name }}:{{ $image.tag }}{{ with $digest }}@{{ . }}{{ end }}
{{- end -}}

{{/* What every pod has: no root, no token of the cluster, no variables of other services. */}}
{{- define "strongroom.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .Values.podSecurity.userId }}
  runAsGroup: {{ .Values.podSecurity.userId }}
  fsGroup: {{ .Values.podSecurity.userId }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "strongroom.containerSecurity" -}}
securityContext:
  runAsNonRoot: true
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Spread over zones and machines, so that one of them takes only a part with it.
     Argument: (list root component). */}}
{{- define "strongroom.spread" -}}
{{- $root := index . 0 -}}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "strongroom.selector" $ | nindent 8 }}
  {{- end }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "strongroom.selector" . | nindent 14 }}
{{- end -}}

{{/* Name of the Secret of one component. Argument: (list root component). */}}
{{- define "strongroom.secretName" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $given := index $root.Values.secrets $component | default dict -}}
{{- $given.existingSecret | default (printf "%s-%s" $root.Release.Name $component) -}}
{{- end -}}

{{/* Which secrets each component is given: those that its settings read, and no others. */}}
{{- define "strongroom.secretKeys" -}}
{{- $objects := list -}}
{{- if and .Values.objectStore.bucket (eq .Values.objectStore.credentials "secret") -}}
{{- $objects = list "AWS_CREDENTIALS" -}}
{{- end -}}
{{- $metrics := list -}}
{{- if .Values.monitoring.metricsToken -}}
{{- $metrics = list "STRONGROOM_METRICS_TOKEN" -}}
{{- end -}}
{{- $django := list "STRONGROOM_SECRET_KEY" "STRONGROOM_DATABASE_URL" "STRONGROOM_REDIS_URL" -}}
{{- $site := concat $django (list "STRONGROOM_KEYBROKER_TOKEN" "STRONGROOM_STRIPE_SECRET_KEY" "STRONGROOM_STRIPE_WEBHOOK_SECRET" "STRONGROOM_SEARCH_KEY") -}}
{{- $broker := list "STRONGROOM_KEYBROKER_DATABASE_URL" "STRONGROOM_KEYBROKER_TOKEN" -}}
{{- if eq .Values.keybroker.kms.kind "vault" -}}
{{- $broker = concat $broker (list (ternary "STRONGROOM_KEYBROKER_VAULT_TOKEN" "STRONGROOM_KEYBROKER_VAULT_SECRET_ID" (empty .Values.keybroker.kms.vault.roleId))) -}}
{{- else if and (eq .Values.keybroker.kms.kind "aws") .Values.keybroker.kms.aws.credentialsInSecret -}}
{{- $broker = concat $broker (list "AWS_CREDENTIALS") -}}
{{- end -}}
{{- $receipts := list "STRONGROOM_RECEIPT_KEY" -}}
{{- if .Values.worker.receiptKeyRotates -}}
{{- $receipts = append $receipts "STRONGROOM_RECEIPT_KEY_BEFORE" -}}
{{- end -}}
{{- dict
  "web" (concat $site (list "STRONGROOM_PLAYGROUND_SECRET") $objects $metrics)
  "worker" (concat $site $receipts $objects $metrics)
  "beat" (concat $django $metrics)
  "gateway" (concat (list "STRONGROOM_GATEWAY_DATABASE_URL" "STRONGROOM_REDIS_URL" "STRONGROOM_PLAYGROUND_SECRET") $metrics)
  "keybroker" (concat $broker $metrics)
  "node" $metrics
  "migrate" $django
  "bucket" (concat $django $objects)
  | toYaml -}}
{{- end -}}

{{- define "strongroom.ownSecretKeys" -}}
{{- $keys := include "strongroom.secretKeys" (index . 0) | fromYaml -}}
{{- index $keys (index . 1) | toYaml -}}
{{- end -}}

{{/* Where a component reads its secrets: files, for an environment is seen by more than its
     process. Argument: (list root component). */}}
{{- define "strongroom.secretEnv" -}}
{{- range include "strongroom.ownSecretKeys" . | fromYamlArray }}
- name: {{ ternary "AWS_SHARED_CREDENTIALS_FILE" (printf "%s_FILE" .) (eq . "AWS_CREDENTIALS") }}
  value: /run/secrets/strongroom/{{ . }}
{{- end }}
{{- end -}}

{{/* Plain variables: a mapping. Values of any kind become text. */}}
{{- define "strongroom.plainEnv" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end -}}

{{/* What all processes are told. Development is for single machines: staging is production too. */}}
{{- define "strongroom.commonEnv" -}}
{{- include "strongroom.plainEnv" (dict
  "STRONGROOM_ENV" "production"
  "STRONGROOM_LOG_LEVEL" .Values.logLevel
  "STRONGROOM_LOG_FORMAT" "json") }}
- name: TMPDIR
  value: /tmp
- name: HOME
  value: /tmp
{{- end -}}

{{/* How those with a database connection check whom they talk to. */}}
{{- define "strongroom.databaseEnv" -}}
{{- if .Values.database.caSecret }}
- name: PGSSLMODE
  value: {{ .Values.database.sslMode }}
- name: PGSSLROOTCERT
  value: /etc/strongroom/postgres-ca/{{ .Values.database.caSecret.key }}
{{- else }}
- name: PGSSLMODE
  value: {{ .Values.database.sslMode }}
{{- end }}
{{- end -}}

{{/* What Django's settings need anywhere. */}}
{{- define "strongroom.djangoEnv" -}}
{{- $plain := dict
  "STRONGROOM_WEB_URL" .Values.urls.web
  "STRONGROOM_GATEWAY_URL" .Values.urls.gateway -}}
{{- with .Values.objectStore.bucket -}}
{{- $_ := set $plain "STRONGROOM_OBJECT_BUCKET" . -}}
{{- end -}}
{{- with .Values.objectStore.endpoint -}}
{{- $_ := set $plain "STRONGROOM_OBJECT_ENDPOINT" . -}}
{{- end -}}
{{- with .Values.objectStore.region -}}
{{- $_ := set $plain "AWS_DEFAULT_REGION" . -}}
{{- end -}}
{{- include "strongroom.plainEnv" $plain }}
{{- include "strongroom.databaseEnv" . }}
{{- end -}}

{{/* What the site and its workers need besides. */}}
{{- define "strongroom.siteEnv" -}}
{{- include "strongroom.djangoEnv" . }}
{{- include "strongroom.keybrokerClientEnv" . }}
{{- include "strongroom.plainEnv" (dict
  "STRONGROOM_EMAIL_HOST" .Values.mail.host
  "STRONGROOM_EMAIL_PORT" .Values.mail.port
  "STRONGROOM_EMAIL_FROM" .Values.mail.from) }}
{{- end -}}

{{- define "strongroom.keybrokerClientEnv" -}}
{{- include "strongroom.plainEnv" (dict
  "STRONGROOM_KEYBROKER_URL" (printf "https://%s-keybroker:8443" .Release.Name)
  "STRONGROOM_KEYBROKER_CA" (printf "/etc/strongroom/keybroker-ca/%s" .Values.keybroker.caSecret.key)) }}
{{- end -}}

{{/* Secrets with files of authorities, by name. */}}
{{- define "strongroom.authorities" -}}
{{- dict "postgres-ca" .Values.database.caSecret "redis-ca" .Values.redis.caSecret "keybroker-ca" .Values.keybroker.caSecret | toYaml -}}
{{- end -}}

{{/* A folder for temporary files, the component's secrets, and files of authorities.
     Argument: (list root component names). */}}
{{- define "strongroom.volumes" -}}
{{- $authorities := include "strongroom.authorities" (index . 0) | fromYaml -}}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
{{- with include "strongroom.ownSecretKeys" . | fromYamlArray }}
- name: secrets
  secret:
    secretName: {{ include "strongroom.secretName" $ }}
    defaultMode: 0440
    items:
      {{- range . }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
{{- end }}
{{- range $name := index . 2 }}
{{- with index $authorities $name }}
- name: {{ $name }}
  secret:
    secretName: {{ .name }}
    defaultMode: 0440
    items:
      - {key: {{ .key }}, path: {{ .key }}}
{{- end }}
{{- end }}
{{- end -}}

{{- define "strongroom.mounts" -}}
{{- $authorities := include "strongroom.authorities" (index . 0) | fromYaml -}}
- {name: tmp, mountPath: /tmp}
{{- with include "strongroom.ownSecretKeys" . | fromYamlArray }}
- {name: secrets, mountPath: /run/secrets/strongroom, readOnly: true}
{{- end }}
{{- range $name := index . 2 }}
{{- with index $authorities $name }}
- {name: {{ $name }}, mountPath: /etc/strongroom/{{ $name }}, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{/* Number of copies, unless somebody else decides it. Argument: (list root component). */}}
{{- define "strongroom.replicas" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $settings := index $root.Values $component -}}
{{- if and $root.Values.rollouts.enabled (has $component (list "web" "gateway")) -}}
replicas: 0
{{- else if not (or (($settings.autoscaling | default dict).enabled) (include "strongroom.isScaled" .)) -}}
replicas: {{ $settings.replicas }}
{{- end -}}
{{- end -}}

{{/* Waits until the schema is the one that this version was written for. */}}
{{- define "strongroom.checkSchema" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- if $root.Values.checks.schema }}
initContainers:
  - name: check-schema
    image: {{ include "strongroom.image" (list $root $component) }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    command: [python, manage.py, check_schema]
    {{- include "strongroom.containerSecurity" $root | nindent 4 }}
    env:
      {{- include "strongroom.commonEnv" $root | trim | nindent 6 }}
      {{- include "strongroom.djangoEnv" $root | trim | nindent 6 }}
      {{- include "strongroom.secretEnv" (list $root $component) | trim | nindent 6 }}
    resources: {{ toYaml $root.Values.checks.resources | nindent 6 }}
    volumeMounts:
      {{- include "strongroom.mounts" (list $root $component (list "postgres-ca" "redis-ca")) | nindent 6 }}
{{- end }}
{{- end -}}

{{/* Where the keys of models are, who may be given them, and for which code. */}}
{{- define "strongroom.keyStoreEnv" -}}
{{- $kms := .Values.keybroker.kms -}}
{{- $plain := dict
  "STRONGROOM_KEYBROKER_KMS" $kms.kind
  "STRONGROOM_KEYBROKER_KMS_DIR" "/var/lib/strongroom/keys"
  "STRONGROOM_KEYBROKER_EVIDENCE" (join "," .Values.keybroker.evidence)
  "STRONGROOM_LOADER_DIGESTS" (join "," .Values.keybroker.loaderDigests) -}}
{{- if eq $kms.kind "vault" -}}
{{- $_ := set $plain "STRONGROOM_KEYBROKER_VAULT_URL" (required "keybroker.kms.vault.url is needed" $kms.vault.url) -}}
{{- $_ := set $plain "STRONGROOM_KEYBROKER_VAULT_MOUNT" $kms.vault.mount -}}
{{- with $kms.vault.roleId -}}
{{- $_ := set $plain "STRONGROOM_KEYBROKER_VAULT_ROLE_ID" . -}}
{{- end -}}
{{- with $kms.vault.namespace -}}
{{- $_ := set $plain "STRONGROOM_KEYBROKER_VAULT_NAMESPACE" . -}}
{{- end -}}
{{- else if eq $kms.kind "aws" -}}
{{- $_ := set $plain "STRONGROOM_KEYBROKER_AWS_REGION" (required "keybroker.kms.aws.region is needed" $kms.aws.region) -}}
{{- end -}}
{{- include "strongroom.plainEnv" $plain }}
{{- end -}}
