{{/* Before the release is installed or upgraded, in the order of the weights. */}}
{{- define "strongroom.hook" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation
{{- end -}}

{{/* A command of manage.py that runs once before a release.
     Argument: (dict root component command weight). */}}
{{- define "strongroom.job" -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .root.Release.Name }}-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "strongroom.labels" (list .root .component) | nindent 4 }}
  annotations:
    {{- include "strongroom.hook" .weight | nindent 4 }}
spec:
  backoffLimit: 3
  activeDeadlineSeconds: {{ .root.Values.jobs.activeDeadlineSeconds }}
  template:
    metadata:
      labels:
        {{- include "strongroom.labels" (list .root .component) | nindent 8 }}
    spec:
      restartPolicy: Never
      serviceAccountName: {{ .root.Release.Name }}-{{ .component }}
      {{- include "strongroom.podSecurity" .root | nindent 6 }}
      containers:
        - name: {{ .component }}
          image: {{ include "strongroom.image" (list .root "web") }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command: {{ toYaml .command | nindent 12 }}
          {{- include "strongroom.containerSecurity" .root | nindent 10 }}
          env:
            {{- include "strongroom.commonEnv" .root | trim | nindent 12 }}
            {{- include "strongroom.djangoEnv" .root | trim | nindent 12 }}
            {{- include "strongroom.secretEnv" (list .root .component) | trim | nindent 12 }}
          resources: {{ toYaml .root.Values.jobs.resources | nindent 12 }}
          volumeMounts:
            {{- include "strongroom.mounts" (list .root .component (list "postgres-ca" "redis-ca")) | nindent 12 }}
      volumes:
        {{- include "strongroom.volumes" (list .root .component (list "postgres-ca" "redis-ca")) | nindent 8 }}
{{- end -}}
